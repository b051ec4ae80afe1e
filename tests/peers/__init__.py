"""What other public MMD and JMMD losses compute, as formulas, and how fastmmd reproduces them."""
