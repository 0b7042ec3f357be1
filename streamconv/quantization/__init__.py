"""How are weights stored as codes, and which numbers do they mean?"""
