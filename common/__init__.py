"""What every room may import: errors, the kernel decorator, random numbers, facts about the machine and its use.

The lowest room: it imports none of the others.
"""
