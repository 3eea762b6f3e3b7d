"""The private surfaces of vLLM that the plugin uses. A place is "module:name", "module:Class.method" or "module:".

What vLLM's documentation offers to everyone is left out: `vllm.LLM`, `SamplingParams`, the names of flags.
"""

TESTED = ("0.32.0",)
"""Versions of vLLM that the whole test suite has run on."""

_CORE, _ASYNC, _LLM = "vllm.v1.engine.core:EngineCore", "vllm.v1.engine.async_llm:AsyncLLM", "vllm.v1.engine.llm_engine"
_OUTPUT = "vllm.v1.engine.output_processor"
_RUNNER, _BATCH = "vllm.v1.worker.gpu_model_runner:GPUModelRunner", "vllm.v1.worker.gpu_input_batch"
_STATES = "vllm.v1.worker.gpu.model_states"
_SERVING, _MODELS = "vllm.entrypoints.serve", "vllm.entrypoints.openai.models.serving:OpenAIServingModels"
_LAUNCHERS, _LORA_OPS = "vllm.entrypoints.launchers", "vllm.lora.ops.torch_ops.lora_ops"
_TOKENS = "vllm.entrypoints.scale_out.token_in_token_out.protocol"

SIGNATURES = {
    # requests and the start of an engine core
    "vllm.v1.engine.input_processor:InputProcessor.__init__": "self, vllm_config, ...",
    "vllm.v1.engine.input_processor:InputProcessor.process_inputs": "self, request_id, prompt, params, ...",
    f"{_CORE}._initialize_kv_caches": "self, vllm_config",
    f"{_CORE}.preprocess_add_request": "self, request",
    f"{_CORE}.add_request": "self, request, request_wave",
    f"{_CORE}.collective_rpc": "self, method, timeout, args, kwargs",
    f"{_CORE}.post_step": "self, model_executed",
    f"{_CORE}.shutdown": "self",
    f"{_LLM}:LLMEngine.add_request": "self, request_id, prompt, params, ..., lora_request",
    f"{_LLM}:LLMEngine.abort_request": "self, request_ids, internal",
    f"{_ASYNC}.add_request": "self, request_id, prompt, params, ..., data_parallel_rank",
    f"{_OUTPUT}:OutputProcessor.add_request": "self, request, ...",
    f"{_OUTPUT}:RequestState.from_new_request": "cls, ..., request, request_index",
    f"{_OUTPUT}:RequestState.make_request_output": "self, new_token_ids, ...",
    "vllm.v1.engine.core_client:AsyncMPClient.call_utility_all_async": "self, method, args",
    "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest.to_beam_search_params": "self, ...",
    "vllm.entrypoints.openai.completion.protocol:CompletionRequest.to_beam_search_params": "self, ...",
    # models and workers
    "vllm.model_executor.models.registry:_ModelRegistry.register_model": "self, model_arch, model_cls",
    "vllm.model_executor.models.transformers.base:Base._decorate_cls_for_torch_compile": "self, cls, ...",
    f"{_RUNNER}._model_forward": "self, ...",
    f"{_RUNNER}.get_model": "self",
    f"{_STATES}:resolve_model_state_cls": "vllm_config, model",
    f"{_STATES}.default:DefaultModelState.__init__": "self, vllm_config, model, encoder_cache, device",
    f"{_STATES}.default:DefaultModelState.add_request": "self, req_index, new_req_data",
    f"{_STATES}.default:DefaultModelState.remove_request": "self, req_id",
    f"{_STATES}.default:DefaultModelState.prepare_inputs": "self, input_batch, req_states",
    f"{_STATES}.default:DefaultModelState.prepare_dummy_inputs": "self, num_reqs, num_tokens",
    "vllm.lora.utils:from_layer": "layer, ...",
    f"{_LORA_OPS}:bgmv_expand": "inputs, lora_b_weights, output_tensor, lora_indices_tensor, ...",
    f"{_LORA_OPS}:bgmv_expand_slice": "inputs, lora_b_weights, output_tensor, lora_indices_tensor, ...",
    # the server
    f"{_SERVING}.engine.serving:BaseServing._check_model": "self, request",
    f"{_SERVING}.engine.serving:BaseServing.create_error_response": "message, ..., err_type, param, status_code",
    f"{_MODELS}.is_base_model": "self, model_name",
    f"{_MODELS}.model_name": "self, lora_request",
    f"{_MODELS}.show_available_models": "self",
    f"{_MODELS}._check_load_lora_adapter_request": "self, request",
    f"{_LAUNCHERS}.api_server.entry:build_async_engine_client": "args, ...",
    f"{_LAUNCHERS}.api_server.entry:build_and_serve": "engine_client, listen_address, sock, args, ...",
    f"{_LAUNCHERS}.launcher:setup_server": "args, reuse_port",
    f"{_LAUNCHERS}.cli_args:make_arg_parser": "parser",
    f"{_LAUNCHERS}.cli_args:validate_parsed_serve_args": "args",
    f"{_SERVING}.utils.api_utils:cli_env_setup": "",
    "vllm.plugins:load_endpoint_plugins": "supported_tasks",
}
"""Place -> parameters that are relied on, in order; behind "..." may stand others, and what is named there is among them."""

NAMES = {
    # requests and the start of an engine core
    "vllm.v1.engine.core:": "freeze_gc_heap EngineCore",
    f"{_CORE}.__init__": "_initialize_kv_caches freeze_gc_heap vllm_config scheduler batch_queue step_fn",
    "vllm.v1.engine.core_client:InprocClient": "engine_core preprocess_add_request",
    "vllm.v1.engine.core:EngineCoreProc": "preprocess_add_request",
    "vllm.v1.engine.core_client:MPClient": "core_engines",
    "vllm.v1.engine:EngineCoreRequest": (
        "request_id prompt_token_ids mm_features sampling_params arrival_time pooling_params lora_request cache_salt "
        "data_parallel_rank prompt_embeds resumable"
    ),
    f"{_LLM}:LLMEngine": "input_processor output_processor engine_core vllm_config model_config",
    _ASYNC: "input_processor output_processor engine_core vllm_config model_config",
    f"{_OUTPUT}:OutputProcessor": "request_states",
    f"{_OUTPUT}:RequestState": "request_index prompt_len parent_req detokenizer",
    "vllm.v1.core.sched.scheduler:Scheduler": "requests",
    "vllm.v1.engine.exceptions:": "EngineDeadError",
    "vllm.exceptions:": "VLLMClientError VLLMNotFoundError VLLMValidationError",
    "vllm.inputs:": "tokens_input",
    "vllm.logprobs:FlatLogprobs": "start_indices token_ids logprobs ranks",
    # the config, from which settings are read and beside which they are checked
    "vllm.config.vllm:VllmConfig": (
        "additional_config model_config parallel_config scheduler_config cache_config compilation_config device_config "
        "lora_config speculative_config kv_transfer_config use_v2_model_runner"
    ),
    "vllm.config.model:ModelConfig": (
        "architecture runner_type quantization dtype model revision max_model_len get_vocab_size get_hidden_size "
        "get_total_num_hidden_layers"
    ),
    "vllm.config.parallel:ParallelConfig": (
        "use_ubatching enable_elastic_ep use_sequence_parallel_moe prefill_context_parallel_size tensor_parallel_size "
        "data_parallel_size worker_extension_cls"
    ),
    "vllm.config.scheduler:SchedulerConfig": "max_num_seqs max_num_batched_tokens",
    "vllm.config.cache:CacheConfig": "kv_sharing_fast_prefill",
    "vllm.config.compilation:CompilationConfig": "max_cudagraph_capture_size",
    "vllm.config.speculative:SpeculativeConfig": "method target_model_config draft_model_config",
    "vllm.config:": "CUDAGraphMode get_current_vllm_config_or_none",
    # models and workers
    "vllm.model_executor.models.registry:": "ModelRegistry",
    "vllm.model_executor.models.registry:_ModelRegistry": "models",
    "vllm.model_executor.models.registry:_LazyRegisteredModel": "module_name class_name",
    "vllm.model_executor.models.utils:": "PPMissingLayer",
    "vllm.model_executor.model_loader.utils:process_weights_after_loading": "process_weights_after_loading",
    "vllm.distributed.parallel_state:": "get_tensor_model_parallel_rank",
    "vllm.forward_context:": "get_forward_context",
    "vllm.forward_context:ForwardContext": "skip_compiled cudagraph_runtime_mode",
    "vllm.v1.worker.worker_base:WorkerBase": "model_runner vllm_config",
    _RUNNER: "requests input_batch query_start_loc vllm_config device _model_forward",
    f"{_BATCH}:InputBatch": "num_reqs req_ids num_computed_tokens_cpu",
    f"{_BATCH}:CachedRequestState": "sampling_params num_prompt_tokens",
    f"{_STATES}:resolve_model_state_cls": "get_model_state_cls modules",
    f"{_STATES}.interface:ModelState": "max_num_reqs",
    "vllm.v1.worker.gpu.input_batch:InputBatch": "num_reqs idx_mapping_np num_scheduled_tokens",
    "vllm.lora.model_manager:": "from_layer",
    "vllm.lora.punica_wrapper.punica_cpu:": "bgmv_expand bgmv_expand_slice",
    "vllm.lora.request:": "LoRARequest",
    # the server
    f"{_SERVING}.engine.serving:BaseServing": "models",
    _MODELS: "base_model_paths lora_requests input_processor model_config",
    f"{_SERVING}.engine.protocol:ModelCard": "id root parent max_model_len permission",
    f"{_SERVING}.engine.protocol:": "ModelPermission",
    f"{_SERVING}:": "create_error_response",
    f"{_SERVING}.middleware.authenticate:": "GUARDED_PREFIX",
    f"{_SERVING}.tokenize.protocol:": "TokenizeChatRequest TokenizeCompletionRequest DetokenizeRequest",
    f"{_TOKENS}:GenerateRequest": "sampling_params",
    "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest": "vllm_xargs use_beam_search",
    "vllm.entrypoints.openai.chat_completion.protocol:BatchChatCompletionRequest": "to_chat_completion_request",
    "vllm.entrypoints.openai.completion.protocol:CompletionRequest": "vllm_xargs use_beam_search",
    f"{_LAUNCHERS}.api_server.app_state:": "openai_serving_models",
    "vllm.utils.argparse_utils:": "FlexibleArgumentParser",
    "vllm.envs:": "VLLM_API_KEY VLLM_SKIP_MODEL_NAME_VALIDATION VLLM_USE_V2_MODEL_RUNNER",
    "vllm.plugins.endpoint_plugins.interface:EndpointPlugin": "name required_tasks attach_router init_state",
}
"""Place -> names that its code must use or define: attributes that are read there, and calls that reach what is wrapped."""
