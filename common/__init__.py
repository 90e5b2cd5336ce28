"""What every room may know: the exception tree, the compiled-kernel decorator and the random generator.

This is the bottom room: it imports nothing of ours.
"""
