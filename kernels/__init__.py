"""Triton kernels (imported as ``fastmmd.kernels``). This version has none: the "triton" backend says so."""
