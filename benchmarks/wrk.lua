-- For wrk: POST as many bytes as the first argument says (0: GET), and write the result as one line of JSON.
-- The request is built once, in `init`; nothing here runs per request.

function init(args)
   local bytes = tonumber(args[1])
   if bytes > 0 then
      wrk.method = "POST"
      wrk.body = string.rep("x", bytes)
      wrk.headers["Content-Type"] = "application/octet-stream"
   end
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format(
      '\n{"requests": %d, "seconds": %.6f, "p50_us": %d, "p99_us": %d, "errors": %d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
      e.connect + e.read + e.write + e.status + e.timeout))
end
