"""Alert rules as code; the YAML they generate is committed in generated/."""
