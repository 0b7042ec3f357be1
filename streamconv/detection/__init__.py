"""Which family and layouts does a checkpoint have?"""
