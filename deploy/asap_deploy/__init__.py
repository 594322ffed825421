"""What runs on the robot, and the file formats that both sides share.

This package needs numpy and onnxruntime only, and runs on Python 3.8. The training side imports
it: the observation that a policy is trained on and the one that the robot builds come from here.
"""

__version__ = "0.1.0"
