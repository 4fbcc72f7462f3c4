"""The dashboard's use of the terminal and the process: options, signals, clipboard, toasts, keys, output."""
