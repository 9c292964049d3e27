import torch

from trainer_hooks.monitor import Monitor

model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
data = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.randn(64, 1))

with Monitor(name="watched") as monitor:
    monitor.watch(model, optimizer)  # all the rest is a loop like any other
    for x, y in torch.utils.data.DataLoader(data, batch_size=8, shuffle=True):
        torch.nn.functional.mse_loss(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
