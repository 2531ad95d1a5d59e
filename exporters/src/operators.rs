//! The operations that have an ONNX form, for readers and for tests.

/// One of Burn's operations and what it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Burn's name, as in [`UnsupportedOperation`](crate::UnsupportedOperation).
    pub burn: &'static str,
    /// The ONNX operators that it may become, alone or together with its neighbours. Some operations become nothing.
    pub onnx: &'static [&'static str],
    /// When it becomes what, and what of it has no ONNX form.
    pub note: &'static str,
}

const fn row(burn: &'static str, onnx: &'static [&'static str], note: &'static str) -> Operator {
    Operator { burn, onnx, note }
}

/// Every operation that has an ONNX form. All are in opset 18 but where the note says another one.
pub const OPERATORS: &[Operator] = &[
    row("BaseFloat(Reshape)", &["Reshape"], "also of truth values"),
    row("BaseFloat(SwapDims)", &["Transpose"], ""),
    row("BaseFloat(Permute)", &["Transpose"], ""),
    row("BaseFloat(Flip)", &["Slice"], "not of the batch"),
    row("BaseFloat(Slice)", &["Slice"], "not of the batch"),
    row("BaseFloat(Expand)", &["Expand", "Shape", "Concat", "Mul"], "to the batch size too"),
    row("BaseFloat(RepeatDim)", &["Tile"], ""),
    row("BaseFloat(Cat)", &["Concat"], ""),
    row("BaseFloat(Select)", &["Gather"], "by constant indices, not of the batch"),
    row("BaseFloat(Equal)", &["Equal"], ""),
    row("BaseFloat(EqualElem)", &["Equal"], ""),
    row("BaseFloat(NotEqual)", &["Equal", "Not"], ""),
    row("BaseFloat(NotEqualElem)", &["Equal", "Not"], ""),
    row("BaseFloat(MaskWhere)", &["Where"], ""),
    row("BaseFloat(MaskFill)", &["Where"], ""),
    row(
        "BaseFloat(Ones)",
        &["Expand", "Shape", "Concat", "Mul"],
        "a constant where its shape does not follow the batch",
    ),
    row(
        "BaseFloat(Zeros)",
        &["Expand", "Shape", "Concat", "Mul"],
        "a constant where its shape does not follow the batch",
    ),
    row("NumericFloat(Add)", &["Add"], ""),
    row("NumericFloat(Sub)", &["Sub"], ""),
    row("NumericFloat(Mul)", &["Mul"], ""),
    row("NumericFloat(Div)", &["Div"], ""),
    row("NumericFloat(AddScalar)", &["Add"], ""),
    row("NumericFloat(SubScalar)", &["Sub"], ""),
    row("NumericFloat(MulScalar)", &["Mul"], ""),
    row("NumericFloat(DivScalar)", &["Div"], ""),
    row("NumericFloat(Rem)", &["Mod", "Less", "Xor", "Equal", "Not", "And", "Add", "Where"], ""),
    row("NumericFloat(RemScalar)", &["Mod", "Less", "Greater", "Add", "Where"], ""),
    row("NumericFloat(PowiScalar)", &["Pow"], ""),
    row("NumericFloat(Abs)", &["Abs"], ""),
    row("NumericFloat(Neg)", &["Neg"], ""),
    row("NumericFloat(Sign)", &["Sign"], ""),
    row("NumericFloat(Greater)", &["Greater"], ""),
    row("NumericFloat(GreaterElem)", &["Greater"], ""),
    row("NumericFloat(GreaterEqual)", &["GreaterOrEqual"], ""),
    row("NumericFloat(GreaterEqualElem)", &["GreaterOrEqual"], ""),
    row("NumericFloat(Lower)", &["Less"], ""),
    row("NumericFloat(LowerElem)", &["Less"], ""),
    row("NumericFloat(LowerEqual)", &["LessOrEqual"], ""),
    row("NumericFloat(LowerEqualElem)", &["LessOrEqual"], ""),
    row("NumericFloat(Clamp)", &["Clip"], ""),
    row("NumericFloat(ClampMin)", &["Clip", "Relu"], "`Relu` at 0"),
    row("NumericFloat(ClampMax)", &["Clip"], ""),
    row(
        "NumericFloat(Full)",
        &["Expand", "Shape", "Concat", "Mul"],
        "a constant where its shape does not follow the batch",
    ),
    row(
        "NumericFloat(Pad)",
        &["Pad"],
        "constant, reflect and edge; not of the batch; zeros before a convolution become its own",
    ),
    row("NumericFloat(MeanDim)", &["ReduceMean", "GlobalAveragePool"], "not over the batch"),
    row("NumericFloat(SumDim)", &["ReduceSum"], "not over the batch"),
    row("NumericFloat(MaxDim)", &["ReduceMax"], "not over the batch"),
    row("NumericFloat(MinDim)", &["ReduceMin"], "not over the batch"),
    row("NumericFloat(ProdDim)", &["ReduceProd"], "not over the batch"),
    row("NumericFloat(MaxAbsDim)", &["Abs", "ReduceMax"], "not over the batch"),
    row("NumericFloat(MaxDimWithIndices)", &["ReduceMax", "ArgMax"], "not over the batch"),
    row("NumericFloat(MinDimWithIndices)", &["ReduceMin", "ArgMin"], "not over the batch"),
    row("NumericFloat(ArgMax)", &["ArgMax"], "not over the batch"),
    row("NumericFloat(ArgMin)", &["ArgMin"], "not over the batch"),
    row("NumericFloat(SumDims)", &["ReduceSum"], "not over the batch"),
    row("NumericFloat(Mean)", &["ReduceMean", "Reshape"], "with a fixed batch"),
    row("NumericFloat(Sum)", &["ReduceSum", "Reshape"], "with a fixed batch"),
    row("NumericFloat(Max)", &["ReduceMax", "Reshape"], "with a fixed batch"),
    row("NumericFloat(Min)", &["ReduceMin", "Reshape"], "with a fixed batch"),
    row("NumericFloat(Prod)", &["ReduceProd", "Reshape"], "with a fixed batch"),
    row("Float(Matmul)", &["MatMul", "Gemm"], "`Gemm` with a constant matrix and, where one is added, a constant row"),
    row("Float(Exp)", &["Exp"], ""),
    row("Float(Log)", &["Log"], ""),
    row("Float(Sqrt)", &["Sqrt"], ""),
    row("Float(Erf)", &["Erf"], ""),
    row("Float(Tanh)", &["Tanh"], ""),
    row("Float(Sin)", &["Sin"], ""),
    row("Float(Cos)", &["Cos"], ""),
    row("Float(Tan)", &["Tan"], ""),
    row("Float(Sinh)", &["Sinh"], ""),
    row("Float(Cosh)", &["Cosh"], ""),
    row("Float(Round)", &["Round"], ""),
    row("Float(Floor)", &["Floor"], ""),
    row("Float(Ceil)", &["Ceil"], ""),
    row("Float(Log1p)", &["Softplus", "Add", "Sub", "Div", "Log", "Mul", "Equal", "Where"], "`Softplus` of an `Exp`"),
    row("Float(ArcSin)", &["Asin"], ""),
    row("Float(ArcCos)", &["Acos"], ""),
    row("Float(ArcTan)", &["Atan"], ""),
    row("Float(ArcSinh)", &["Asinh"], ""),
    row("Float(ArcCosh)", &["Acosh"], ""),
    row("Float(ArcTanh)", &["Atanh"], ""),
    row("Float(Trunc)", &["Abs", "Floor", "Sign", "Mul"], ""),
    row("Float(Recip)", &["Reciprocal"], ""),
    row("Float(PowfScalar)", &["Pow"], ""),
    row("Float(Powf)", &["Pow"], ""),
    row("Float(IntoInt)", &["Cast"], ""),
    row("Bool(Not)", &["Not"], ""),
    row("Bool(And)", &["And"], ""),
    row("Bool(Or)", &["Or"], ""),
    row("Bool(Xor)", &["Xor"], ""),
    row("Bool(IntoFloat)", &["Cast"], ""),
    row("Bool(IntoInt)", &["Cast"], ""),
    row("Int(IntoFloat)", &["Cast"], ""),
    row("Activation(Relu)", &["Relu"], ""),
    row("Activation(Sigmoid)", &["Sigmoid"], ""),
    row("Activation(LeakyRelu)", &["LeakyRelu"], ""),
    row("Activation(Softmax)", &["Softmax"], ""),
    row("Activation(LogSoftmax)", &["LogSoftmax"], ""),
    row("Activation(PRelu)", &["PRelu"], ""),
    row("Activation(Gelu)", &["Gelu", "Mul", "Erf", "Add"], "`Gelu` from opset 20 on"),
    row("Activation(HardSigmoid)", &["HardSigmoid", "HardSwish"], "`HardSwish` where it is multiplied by its input"),
    row("Activation(LogSigmoid)", &["Abs", "Neg", "Softplus", "Min", "Sub"], ""),
    row("Activation(Softmin)", &["Neg", "Softmax"], ""),
    row("Module(Conv1d)", &["Conv"], "any stride, padding, dilation and groups"),
    row("Module(Conv2d)", &["Conv"], "any stride, padding, dilation and groups"),
    row("Module(ConvTranspose1d)", &["ConvTranspose"], "any stride, padding, dilation and groups"),
    row("Module(ConvTranspose2d)", &["ConvTranspose"], "any stride, padding, dilation and groups"),
    row("Module(BatchNorm)", &["BatchNormalization"], "folded into a convolution or linear layer before it"),
    row("Module(LayerNorm)", &["LayerNormalization"], ""),
    row("Module(AvgPool1d)", &["AveragePool"], "not with a partial last window (ceil mode)"),
    row("Module(AvgPool2d)", &["AveragePool"], "not with a partial last window (ceil mode)"),
    row(
        "Module(AdaptiveAvgPool1d)",
        &["GlobalAveragePool", "AveragePool", "MatMul"],
        "`MatMul` with a constant where windows overlap",
    ),
    row(
        "Module(AdaptiveAvgPool2d)",
        &["GlobalAveragePool", "AveragePool", "MatMul"],
        "`MatMul` with a constant where windows overlap",
    ),
    row("Module(MaxPool1d)", &["MaxPool"], "rten: without dilation"),
    row("Module(MaxPool2d)", &["MaxPool"], "rten: without dilation"),
    row(
        "Module(Interpolate)",
        &["Resize", "Gather", "MatMul"],
        "bilinear and nearest; `MatMul` with constants for other modes, as far as the default device has them",
    ),
];

/// The table as Markdown.
pub fn operator_table() -> String {
    let mut text = String::from("| Burn | ONNX | |\n|---|---|---|\n");
    for Operator { burn, onnx, note } in OPERATORS {
        let onnx: Vec<String> = onnx.iter().map(|operator| format!("`{operator}`")).collect();
        text += &format!("| `{burn}` | {} | {note} |\n", onnx.join(", "));
    }
    text
}
