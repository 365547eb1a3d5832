"""The hybrid as a transformers model: configuration, modules, cache, families."""


def register() -> None:
    """Make `AutoConfig` and `AutoModelForCausalLM` load hybrids; called by `import hydrahead`."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from hydrahead.model.configuration import HydraConfig
    from hydrahead.model.modeling import HydraForCausalLM, HydraModel

    AutoConfig.register(HydraConfig.model_type, HydraConfig, exist_ok=True)
    AutoModel.register(HydraConfig, HydraModel, exist_ok=True)
    AutoModelForCausalLM.register(HydraConfig, HydraForCausalLM, exist_ok=True)
