"""What of timm's interface a dynamic model has, by name: forwarded, ours, or refused in words.

The tables name every public attribute and method of timm's `VisionTransformer`. What another class of timm has beside
them is found on `model.backbone`.
"""

FORWARDED = (
    "attn_pool",
    "blocks",
    "cls_token",
    "dynamic_img_size",
    "embed_dim",
    "fc_norm",
    "fix_init",
    "global_pool",
    "has_class_token",
    "head_drop",
    "head_hidden_size",
    "in_chans",
    "no_embed_class",
    "norm",
    "norm_pre",
    "num_reg_tokens",
    "patch_drop",
    "patch_embed",
    "pool",
    "pool_include_prefix",
    "pos_drop",
    "pos_embed",
    "pretrained_model_args",
    "reg_token",
    "weight_init_mode",
)
"""Read from the backbone; absent where it has none."""
TRAITS = ("_traits", "_model_args")
"""timm's own notes on a model, which `timm.models.get_model_input_config` and its like read."""
OURS = (
    "default_cfg",
    "feature_info",
    "forward",
    "forward_features",
    "forward_head",
    "forward_intermediates",
    "get_classifier",
    "get_intermediate_layers",
    "grad_checkpointing",
    "group_matcher",
    "head",
    "no_weight_decay",
    "num_classes",
    "num_features",
    "num_prefix_tokens",
    "pretrained_cfg",
    "prune_intermediate_layers",
    "reset_classifier",
    "set_grad_checkpointing",
    "set_input_size",
)
"""As timm's, with our names of parameters, and with what dispatchers, reducers, tuners and heads ask for."""
REFUSED = ("fix_init_weight", "init_weights", "load_pretrained")
"""They write into the pretrained weights, which are frozen: UnsupportedError."""
