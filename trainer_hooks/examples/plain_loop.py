import torch

from trainer_hooks.monitor import Monitor

model = torch.nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
data = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.randn(64, 1))
with Monitor(name="plain-loop") as monitor:
    for x, y in monitor.batches(torch.utils.data.DataLoader(data, batch_size=8)):
        with monitor.step():
            loss = torch.nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            monitor.batch(loss=loss, samples=len(x))
