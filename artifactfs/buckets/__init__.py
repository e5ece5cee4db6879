"""Buckets of object stores: what names one, who may open it, and what is asked of it."""
