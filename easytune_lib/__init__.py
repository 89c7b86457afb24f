"""EasyTune Workbench: align a text-to-motion diffusion model with a differentiable reward."""

__version__ = "0.1.0"
