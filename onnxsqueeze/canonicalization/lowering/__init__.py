"""Fused operators of com.microsoft, which onnxruntime's optimizers write, lowered to the operators they were made from.

Each of those has its rule. Where nothing but weights has changed between them, the fused node is written back
(`onnxsqueeze.rewriting.fusing`); else they stay apart, and onnxruntime fuses what it can when it loads the model.
"""
