from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from trainer_hooks.transformers import TelemetryCallback

model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2))
data = [{"input_ids": [at % 64] * 8, "labels": [at % 64] * 8} for at in range(64)]
Trainer(
    model=model,
    args=TrainingArguments(output_dir="output", use_cpu=True, save_strategy="no", report_to="none"),
    train_dataset=data,  # type: ignore[arg-type, unused-ignore]
    callbacks=[
        TelemetryCallback()
    ],  # or report_to="trainvitals", once trainer_hooks.transformers is imported
).train()
