-- Begin leases anew.
-- KEYS: stream
-- ARGV: group, worker, and the keys of what it holds
-- Answer: the keys of what it does not hold any more
if redis.replicate_commands then redis.replicate_commands() end
local stream, group, worker = KEYS[1], ARGV[1], ARGV[2]
local lost = {}
for i = 3, #ARGV do
  local found = redis.pcall('XPENDING', stream, group, ARGV[i], ARGV[i], 1)
  if not found.err and found[1] and found[1][2] == worker then
    redis.call('XCLAIM', stream, group, worker, 0, ARGV[i], 'JUSTID')
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
