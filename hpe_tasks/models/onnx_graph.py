"""What nodes of ONNX graphs say of themselves."""

from __future__ import annotations

from typing import Any

import onnx


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes that a node has, by name; those that it leaves to their defaults are not among them."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
