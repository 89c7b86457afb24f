"""The small world for the reward."""

from reward_world import batch, clips, features, found, prompts, spm

__all__ = ["batch", "clips", "features", "found", "prompts", "spm"]
