"""Train and serve detectors of small objects in large images, on the SageMaker contract."""

__version__ = "0.1.0"
