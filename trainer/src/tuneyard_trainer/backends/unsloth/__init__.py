"""Training with Unsloth, in its own image and on one GPU.

Unsloth is under the Apache License 2.0, and parts of it and of unsloth-zoo under the GNU AGPL 3.0 and LGPL 3.0. It is
called as a library, from a process of its own, and nothing of it is copied.
"""
