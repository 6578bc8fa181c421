"""What more ranks buy: critical paths, calibrated forecasts, ways to divide; numbers alone.

Nothing here measures, and nothing knows of networks, runtimes or files.
"""
