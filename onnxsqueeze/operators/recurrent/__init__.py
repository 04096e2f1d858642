"""LSTM, GRU and RNN: the view of a node, what its units can be at any time, and how it is narrowed."""
