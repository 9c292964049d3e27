import torch
from lightning.fabric import Fabric

from trainer_hooks.fabric import TelemetryCallback

fabric = Fabric(accelerator="cpu", callbacks=[TelemetryCallback(name="fabricated")])
fabric.launch()
linear = torch.nn.Linear(8, 1)
model, optimizer = fabric.setup(linear, torch.optim.AdamW(linear.parameters(), lr=0.01))
data = torch.utils.data.TensorDataset(torch.randn(64, 8))
for (x,) in fabric.setup_dataloaders(torch.utils.data.DataLoader(data, batch_size=8)):
    fabric.backward(model(x).square().mean())
    optimizer.step()
    optimizer.zero_grad()
