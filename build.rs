//! Nothing is generated yet: the CUDA kernels of `kernels/` and their images come with the GPU backend.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
