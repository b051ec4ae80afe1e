"""Throughput and memory of fastmmd beside what people use today. Start with ``python bench/throughput.py --quick``."""
