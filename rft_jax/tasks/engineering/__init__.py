"""Engineering: circuits written in Verilog and judged by simulation (`verilog`), and problems of
science with a number as the answer (`scibench`)."""
