//! The graph as a protobuf message. The only file that knows protobuf types; they are written, never parsed.

use std::collections::BTreeMap;
use std::io::Write;

use burn::tensor::f16;
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::{DataLocation, DataType};
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::type_proto;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
};
use protobuf::{Enum, EnumOrUnknown, MessageField};

use crate::error::ExportError;
use crate::export::Precision;
use crate::graph::{Attribute, Constant, Dim, Graph, Kind, Node, ValueId};

/// The version of the file format that goes with opset 18; later opsets do not need a later one.
const IR_VERSION: i64 = 8;

/// Constants of fewer bytes stay in the model's own file.
const SMALLEST_OUTSIDE: usize = 1024;

/// Where a constant in a second file begins is a multiple of this, so that a reader can map it.
const ALIGNMENT: usize = 64;

/// What a file says besides its graph.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) opset: i64,
    pub(crate) precision: Precision,
    pub(crate) graph_name: String,
    pub(crate) doc: String,
    pub(crate) producer: (String, String),
    pub(crate) metadata: Vec<(String, String)>,
}

/// Which constants are in a second file: none by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Storage {
    name: String,
    offsets: BTreeMap<ValueId, usize>,
}

impl Storage {
    /// All large constants in a file of this name.
    pub(crate) fn beside(graph: &Graph, precision: Precision, name: String) -> Self {
        let (mut offsets, mut end) = (BTreeMap::new(), 0usize);
        for id in graph.used_constants() {
            let bytes = constant_bytes(graph, id, precision);
            if bytes >= SMALLEST_OUTSIDE {
                let offset = end.next_multiple_of(ALIGNMENT);
                offsets.insert(id, offset);
                end = offset + bytes;
            }
        }
        Self { name, offsets }
    }

    /// Writes the second file.
    pub(crate) fn write(&self, graph: &Graph, precision: Precision, file: &mut impl Write) -> std::io::Result<()> {
        let mut by_offset: Vec<(usize, ValueId)> = self.offsets.iter().map(|(id, offset)| (*offset, *id)).collect();
        by_offset.sort_unstable();
        let mut end = 0;
        for (offset, id) in by_offset {
            file.write_all(&vec![0; offset - end])?;
            let bytes = constant_data(graph, id, precision);
            file.write_all(&bytes)?;
            end = offset + bytes.len();
        }
        Ok(())
    }
}

/// The bytes of an ONNX file.
///
/// # Errors
///
/// When the encoder fails.
pub(crate) fn encode(graph: &Graph, header: &Header, storage: &Storage) -> Result<Vec<u8>, ExportError> {
    let model = ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto { version: header.opset, ..Default::default() }],
        producer_name: header.producer.0.clone(),
        producer_version: header.producer.1.clone(),
        doc_string: header.doc.clone(),
        graph: MessageField::some(encode_graph(graph, header, storage)),
        metadata_props: header.metadata.iter().map(|(key, value)| entry(key, value)).collect(),
        ..Default::default()
    };
    model.write_to_bytes().map_err(|error| ExportError::Encode(error.to_string()))
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.to_string(), value: value.to_string(), ..Default::default() }
}

/// The bytes of a constant's elements.
pub(crate) fn constant_bytes(graph: &Graph, id: ValueId, precision: Precision) -> usize {
    let value = graph.value(id);
    let Some(constant) = &value.constant else { return 0 };
    let element = match constant {
        Constant::Float(_) if is_half(value.kind, precision) => size_of::<f16>(),
        Constant::Float(_) => size_of::<f32>(),
        Constant::Ints(_) => size_of::<i64>(),
        Constant::U8(_) | Constant::I8(_) => size_of::<u8>(),
        Constant::I32(_) => size_of::<i32>(),
    };
    constant.shape().iter().product::<usize>() * element
}

fn constant_data(graph: &Graph, id: ValueId, precision: Precision) -> Vec<u8> {
    let value = graph.value(id);
    match &value.constant {
        Some(Constant::Float(array)) if is_half(value.kind, precision) => {
            array.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
        }
        Some(Constant::Float(array)) => array.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Some(Constant::Ints(values)) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Some(Constant::U8(array)) => array.iter().copied().collect(),
        Some(Constant::I8(array)) => array.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Some(Constant::I32(values)) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        None => Vec::new(),
    }
}

fn is_half(kind: Kind, precision: Precision) -> bool {
    kind == Kind::Float && precision == Precision::F16
}

fn encode_graph(graph: &Graph, header: &Header, storage: &Storage) -> GraphProto {
    let precision = header.precision;
    let infos = |ids: &[ValueId]| ids.iter().map(|id| value_info(graph, *id, precision)).collect();
    let inner: Vec<ValueId> =
        graph.nodes.iter().map(|node| node.output).filter(|id| !graph.outputs.contains(id)).collect();
    let constants = graph.used_constants();
    GraphProto {
        name: header.graph_name.clone(),
        node: graph.nodes.iter().map(|node| encode_node(graph, node)).collect(),
        initializer: constants.iter().map(|id| encode_constant(graph, *id, precision, storage)).collect(),
        input: infos(&graph.inputs),
        output: infos(&graph.outputs),
        value_info: infos(&inner),
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

fn encode_constant(graph: &Graph, id: ValueId, precision: Precision, storage: &Storage) -> TensorProto {
    let value = graph.value(id);
    let shape = value.constant.as_ref().map(Constant::shape).unwrap_or_default();
    let mut tensor = TensorProto {
        name: value.name.clone(),
        dims: shape.iter().map(|size| *size as i64).collect(),
        data_type: data_type(value.kind, precision).value(),
        ..Default::default()
    };
    match storage.offsets.get(&id) {
        Some(offset) => {
            tensor.data_location = EnumOrUnknown::new(DataLocation::EXTERNAL);
            let length = constant_bytes(graph, id, precision);
            tensor.external_data = vec![
                entry("location", &storage.name),
                entry("offset", &offset.to_string()),
                entry("length", &length.to_string()),
            ];
        }
        None => tensor.raw_data = constant_data(graph, id, precision),
    }
    tensor
}

fn data_type(kind: Kind, precision: Precision) -> DataType {
    match kind {
        Kind::Float if is_half(kind, precision) => DataType::FLOAT16,
        Kind::Float | Kind::Float32 => DataType::FLOAT,
        Kind::Int => DataType::INT64,
        Kind::Truth => DataType::BOOL,
        Kind::U8 => DataType::UINT8,
        Kind::I8 => DataType::INT8,
        Kind::I32 => DataType::INT32,
    }
}

fn value_info(graph: &Graph, id: ValueId, precision: Precision) -> ValueInfoProto {
    let value = graph.value(id);
    let shape = TensorShapeProto { dim: value.dims.iter().map(|dim| dimension(*dim)).collect(), ..Default::default() };
    let elem_type = data_type(value.kind, precision).value();
    let tensor = type_proto::Tensor { elem_type, shape: MessageField::some(shape), ..Default::default() };
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
