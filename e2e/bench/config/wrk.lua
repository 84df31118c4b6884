-- WRK_POST is the number of bytes to POST; without it, wrk GETs.
local post = os.getenv("WRK_POST")
if post then
  wrk.method = "POST"
  wrk.body = string.rep("x", tonumber(post))
end
function done(summary)
  local e = summary.errors
  io.write(string.format('RESULT {"requests":%d,"microseconds":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
    summary.requests, summary.duration, e.connect, e.read, e.write, e.status, e.timeout))
end
