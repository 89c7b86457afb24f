"""The small world for the reward, for the one that was published."""

from reward_world import batch, clips, features, prompts

__all__ = ["batch", "clips", "features", "prompts"]
