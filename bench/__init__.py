"""Measures actorchat against its yardsticks, side by side in one run. Figures are ratios: machines differ."""
