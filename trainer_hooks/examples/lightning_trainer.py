import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from trainer_hooks.lightning import TelemetryCallback


class Model(BoringModel):
    def train_dataloader(self) -> torch.utils.data.DataLoader[torch.Tensor]:
        return torch.utils.data.DataLoader(torch.randn(64, 32), batch_size=8)  # type: ignore[arg-type]


Trainer(accelerator="cpu", max_epochs=1, logger=False, callbacks=[TelemetryCallback(name="fitted")]).fit(
    Model()
)
