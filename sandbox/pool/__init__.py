"""The warm pool: containers that have booted before they are asked, each for one invocation."""
