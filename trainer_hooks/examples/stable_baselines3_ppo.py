from stable_baselines3 import PPO

from trainer_hooks.stable_baselines3 import TelemetryCallback

model = PPO("MlpPolicy", "CartPole-v1", n_steps=128, batch_size=64, n_epochs=2)
model.learn(total_timesteps=256, callback=TelemetryCallback(name="cart-pole"))
