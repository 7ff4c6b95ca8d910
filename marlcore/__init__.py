"""marlcore: multi-agent PPO for robot arms. It imports nothing by itself."""
