# Leaves a lock's entries for PyTorch and for what only its CUDA build needs out.
# An entry begins in the first column and goes on in indented lines.
/^[A-Za-z0-9]/ { left_out = /^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==/ }
!left_out
