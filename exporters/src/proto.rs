//! The graph as a protobuf message. The only file that knows protobuf types; they are written, never parsed.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::type_proto;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
};
use protobuf::{Enum, EnumOrUnknown, MessageField};

use crate::error::ExportError;
use crate::graph::{Attribute, Constant, Dim, Graph, Node, ValueId};

/// The version of the file format that goes with opset 18; later opsets do not need a later one.
const IR_VERSION: i64 = 8;

/// What a file says besides its graph.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) opset: i64,
    pub(crate) graph_name: String,
    pub(crate) doc: String,
    pub(crate) producer: (String, String),
    pub(crate) metadata: Vec<(String, String)>,
}

/// The bytes of an ONNX file.
///
/// # Errors
///
/// When they are more than a protobuf message can have.
pub(crate) fn encode(graph: &Graph, header: &Header) -> Result<Vec<u8>, ExportError> {
    let bytes: usize = graph.used_constants().iter().map(|id| constant_bytes(graph, *id)).sum();
    if bytes > i32::MAX as usize {
        return Err(ExportError::TooLarge { bytes });
    }
    let model = ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto { version: header.opset, ..Default::default() }],
        producer_name: header.producer.0.clone(),
        producer_version: header.producer.1.clone(),
        doc_string: header.doc.clone(),
        graph: MessageField::some(encode_graph(graph, &header.graph_name)),
        metadata_props: header.metadata.iter().map(entry).collect(),
        ..Default::default()
    };
    model.write_to_bytes().map_err(|error| ExportError::Encode(error.to_string()))
}

fn entry((key, value): &(String, String)) -> StringStringEntryProto {
    StringStringEntryProto { key: key.clone(), value: value.clone(), ..Default::default() }
}

fn constant_bytes(graph: &Graph, id: ValueId) -> usize {
    match &graph.value(id).constant {
        Some(Constant::Float(array)) => array.len() * size_of::<f32>(),
        Some(Constant::Ints(values)) => values.len() * size_of::<i64>(),
        None => 0,
    }
}

fn encode_graph(graph: &Graph, name: &str) -> GraphProto {
    let intermediate = graph.nodes.iter().filter(|node| node.output != graph.output);
    GraphProto {
        name: name.to_string(),
        node: graph.nodes.iter().map(|node| encode_node(graph, node)).collect(),
        initializer: graph.used_constants().iter().filter_map(|id| encode_constant(graph, *id)).collect(),
        input: vec![value_info(graph, graph.input, DataType::FLOAT)],
        output: vec![value_info(graph, graph.output, DataType::FLOAT)],
        value_info: intermediate.map(|node| value_info(graph, node.output, data_type(node))).collect(),
        ..Default::default()
    }
}

fn encode_node(graph: &Graph, node: &Node) -> NodeProto {
    let name = |id: &Option<ValueId>| id.map_or_else(String::new, |id| graph.value(id).name.clone());
    NodeProto {
        name: node.name.clone(),
        op_type: node.op.to_string(),
        input: node.inputs.iter().map(name).collect(),
        output: vec![name(&Some(node.output))],
        attribute: node.attributes.iter().map(|(name, value)| encode_attribute(name, value)).collect(),
        doc_string: node.doc.clone(),
        ..Default::default()
    }
}

fn encode_attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut attribute = AttributeProto { name: name.to_string(), ..Default::default() };
    let kind = match value {
        Attribute::Int(value) => {
            attribute.i = *value;
            AttributeType::INT
        }
        Attribute::Float(value) => {
            attribute.f = *value;
            AttributeType::FLOAT
        }
        Attribute::Ints(values) => {
            attribute.ints.clone_from(values);
            AttributeType::INTS
        }
        Attribute::Text(text) => {
            attribute.s = text.as_bytes().to_vec();
            AttributeType::STRING
        }
    };
    attribute.type_ = EnumOrUnknown::new(kind);
    attribute
}

fn encode_constant(graph: &Graph, id: ValueId) -> Option<TensorProto> {
    let value = graph.value(id);
    let (data_type, shape, raw_data) = match value.constant.as_ref()? {
        Constant::Float(array) => {
            (DataType::FLOAT, array.shape().to_vec(), array.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
        Constant::Ints(values) => {
            (DataType::INT64, vec![values.len()], values.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
    };
    Some(TensorProto {
        name: value.name.clone(),
        dims: shape.iter().map(|size| *size as i64).collect(),
        data_type: data_type.value(),
        raw_data,
        ..Default::default()
    })
}

fn data_type(node: &Node) -> DataType {
    if node.is_truth() { DataType::BOOL } else { DataType::FLOAT }
}

fn value_info(graph: &Graph, id: ValueId, data_type: DataType) -> ValueInfoProto {
    let value = graph.value(id);
    let shape = TensorShapeProto { dim: value.dims.iter().map(|dim| dimension(*dim)).collect(), ..Default::default() };
    let tensor =
        type_proto::Tensor { elem_type: data_type.value(), shape: MessageField::some(shape), ..Default::default() };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: value.name.clone(), type_: MessageField::some(kind), ..Default::default() }
}

fn dimension(dim: Dim) -> Dimension {
    let value = match dim {
        Dim::Fixed(size) => dimension::Value::DimValue(size as i64),
        Dim::Batch(1) => dimension::Value::DimParam("batch".to_string()),
        Dim::Batch(factor) => dimension::Value::DimParam(format!("{factor}*batch")),
    };
    Dimension { value: Some(value), ..Default::default() }
}
