import torch
from accelerate import Accelerator

import trainer_hooks.accelerate  # noqa: F401  (its tracker has a name from here on)

accelerator = Accelerator(log_with="trainvitals", gradient_accumulation_steps=2)
accelerator.init_trackers("accelerated")
model, loader = torch.nn.Linear(8, 1), torch.utils.data.DataLoader(torch.randn(64, 8), batch_size=8)  # type: ignore
model, loader, optimizer = accelerator.prepare(model, loader, torch.optim.AdamW(model.parameters(), lr=0.01))
for x in loader:
    with accelerator.accumulate(model):
        accelerator.backward(model(x).square().mean())
        optimizer.step()
        optimizer.zero_grad()
accelerator.end_training()
