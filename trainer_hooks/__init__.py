"""Records a training's vital signs from inside the trainer. Standard library only."""

__version__ = "0.1.0"
