"""Scripts that make the bundled demo models: their text, their tokenizers, their weights and their GGUF files.

Nothing here is needed to run localllm. With the extra `train`, make `models/chat/localllm-demo.gguf` again by:

    python -m models.training.train_chat                      # from the last checkpoint, if there is one
    python -m models.training.export_chat                     # writes the GGUF
    python -m models.training.evaluate_chat --output accuracy.json --examples
    python -m models.training.export_chat --accuracy accuracy.json

and the embedder and the reranker by:

    python -m models.training.train_embedding
    python -m models.training.export_encoders embedding
    python -m models.training.evaluate_encoders embedding     # the same for train_reranker and reranker

Run them in the repository's root. Checkpoints lie in `models/training/checkpoints/`, which git ignores; delete that
folder to start anew. A changed source asks for a new training: `recipe.py` hashes the sources, the GGUF holds the hash,
and a test compares the two.
"""
