//! The derive macro of `elastic_layers::Elastic`.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Fields, Index, parse_macro_input, parse_quote};

/// Implements `Elastic` field by field, for structs and enums.
///
/// A field marked `#[elastic(skip)]` is kept as it is.
#[proc_macro_derive(Elastic, attributes(elastic))]
pub fn derive_elastic(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(input).unwrap_or_else(syn::Error::into_compile_error).into()
}

fn expand(mut input: DeriveInput) -> syn::Result<TokenStream> {
    let name = &input.ident;
    for param in input.generics.type_params_mut() {
        param.bounds.push(parse_quote!(::elastic_layers::Elastic));
    }
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    let (adapt, visit) = match &input.data {
        Data::Struct(data) => {
            let arm = arm(quote!(Self), &data.fields, None)?;
            (arm.adapt, arm.visit)
        }
        Data::Enum(data) => {
            let mut adapt = TokenStream::new();
            let mut visit = TokenStream::new();
            for variant in &data.variants {
                let ident = &variant.ident;
                let arm = arm(quote!(Self::#ident), &variant.fields, Some(ident))?;
                adapt.extend(arm.adapt);
                visit.extend(arm.visit);
            }
            (adapt, visit)
        }
        Data::Union(_) => return Err(syn::Error::new_spanned(name, "a union cannot be Elastic")),
    };
    Ok(quote! {
        impl #impl_generics ::elastic_layers::Elastic for #name #type_generics #where_clause {
            #[inline]
            fn adapt(&self, adaptation: &::elastic_layers::Adaptation<'_>) -> Self {
                match self { #adapt }
            }

            fn visit_axes(&self, visitor: &mut ::elastic_layers::AxesVisitor) {
                match self { #visit }
            }
        }
    })
}

/// The two match arms of one struct or variant.
struct Arm {
    adapt: TokenStream,
    visit: TokenStream,
}

/// In module paths, Burn names what a variant holds after the variant.
fn arm(path: TokenStream, fields: &Fields, variant: Option<&Ident>) -> syn::Result<Arm> {
    let mut pattern = TokenStream::new();
    let mut adapted = TokenStream::new();
    let mut visited = TokenStream::new();
    for (index, field) in fields.iter().enumerate() {
        let binding = format_ident!("field_{index}");
        let (member, name) = match &field.ident {
            Some(ident) => (quote!(#ident), ident.to_string()),
            None => {
                let number = Index::from(index);
                (quote!(#number), index.to_string())
            }
        };
        let name = variant.map_or(name, Ident::to_string);
        if is_skipped(field)? {
            pattern.extend(quote!(#member: #binding,));
            adapted.extend(quote!(#member: ::core::clone::Clone::clone(#binding),));
            visited.extend(quote!(let _ = #binding;));
        } else {
            pattern.extend(quote!(#member: #binding,));
            // A field that is not elastic is what the compiler's message points to.
            let (kind, span) = (&field.ty, field.ty.span());
            let elastic = quote_spanned!(span=> <#kind as ::elastic_layers::Elastic>);
            adapted.extend(quote!(#member: #elastic::adapt(#binding, &adaptation.field(#name)),));
            visited.extend(quote!(#elastic::visit_axes(#binding, visitor);));
        }
    }
    Ok(Arm {
        adapt: quote!(#path { #pattern } => #path { #adapted },),
        visit: quote!(#path { #pattern } => { #visited }),
    })
}

fn is_skipped(field: &syn::Field) -> syn::Result<bool> {
    let mut skipped = false;
    for attribute in field.attrs.iter().filter(|attribute| attribute.path().is_ident("elastic")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("skip") {
                skipped = true;
                Ok(())
            } else {
                Err(meta.error("expected `skip`"))
            }
        })?;
    }
    Ok(skipped)
}
