"""Readers and writers of the field's file formats, one module per format."""
