"""Admission: what `kubectl apply` answers, before an object is stored.

Nothing depends on it: without the webhook the conditions of an object say the same, once it is stored.
"""
