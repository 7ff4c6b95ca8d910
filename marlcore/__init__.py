"""marlcore: multi-agent PPO for robot arms. Import the module you need; this package imports nothing by itself."""
