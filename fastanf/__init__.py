"""SAC and TD3 with dynamic sparse training on extremely noisy environments, many lanes in one
process.
"""

__version__ = "0.1.0"
