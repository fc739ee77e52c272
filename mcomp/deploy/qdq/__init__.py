"""The rules that a Q/DQ file must keep to, one short function each, and the check of any ONNX file against them."""
