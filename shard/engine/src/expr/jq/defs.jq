# What jq has and jaq lacks, and what jaq does otherwise than jq. Read before every filter.

def IN(stream): . as $x | any(stream; . == $x);
def IN(source; stream): any(source; IN(stream));
def INDEX(stream; key): reduce stream as $row ({}; . + {($row | key | tostring): $row});
def INDEX(key): INDEX(.[]; key);

def toarray: if isarray then . else [.] end;
def ascii: [.] | implode;
def have_literal_numbers: true;
def have_decnum: false;
def leaf_paths: paths(scalars);
def trimstr($s): ltrimstr($s) | rtrimstr($s);

# null counts as nothing, as in jq; containers are refused.
def join($separator):
  reduce .[] as $x (null;
    (if . == null then "" else . + $separator end)
    + (if $x == null then "" elif $x | isstring then $x
       elif $x | (isnumber or isboolean) then $x | tojson
       else error("cannot join with an array or an object") end))
  // "";

def from_entries:
  def either(names): first(names as $n | select(has($n)) | .[$n] | select(. != null and . != false)) // null;
  reduce .[] as $e ({};
    . + ($e
      | (either("key", "k", "name", "Name", "Key", "K")) as $k
      | (if has("value") then .value elif has("v") then .v elif has("Value") then .Value else .V end) as $v
      | {(if $k == null then "null" elif $k | isstring then $k else $k | tojson end): $v}));

# By value, not by assignment, so that what is missing on the way is made.
def setpath($path; $new):
  def put($rest):
    if ($rest | length) == 0 then $new
    else $rest[0] as $k
      | (if . == null then (if $k | isstring then {} else [] end) else . end)
      | (if isarray and ($k | isnumber) and $k >= length then . + [range($k - length + 1) | null] else . end)
      | (.[$k] | put($rest[1:])) as $inner
      | .[$k] = $inner
    end;
  put($path);

# All at once, by the places before anything is gone; what is not there is left alone.
def delpaths($paths):
  def without($path):
    $path[0] as $k
    | if . == null then .
      elif ($path | length) > 1 then
        if try has($k) catch true then .[$k] |= without($path[1:]) else . end
      elif isarray and ($k | isnumber) and ($k >= length or $k < -length) then .
      else .[$k] |= empty end;
  reduce ($paths | unique | reverse[]) as $path (.; if $path == [] then null else without($path) end);
def del(paths): delpaths([path(paths)]);

def tostream:
  def events($path):
    if (isarray or isobject) and length > 0 then
      keys_unsorted as $keys
      | ($keys[] as $k | .[$k] | events($path + [$k])), [$path + [$keys[-1]]]
    else [$path, .] end;
  events([]);

def fromstream(stream):
  foreach stream as $event ({value: null, done: false};
    (if .done then {value: null, done: false} else . end)
    | ($event[0] | length) as $depth
    | if ($event | length) == 2
      then {value: (.value | setpath($event[0]; $event[1])), done: ($depth == 0)}
      else {value: .value, done: ($depth == 1)} end;
    if .done then .value else empty end);

def truncate_stream(stream):
  . as $n | null | stream
  | if (.[0] | length) > $n then .[0] |= .[$n:] else empty end;

def @csv:
  [.[] | if isstring then "\"" + gsub("\""; "\"\"") + "\""
         elif . == null then "" elif isnumber or isboolean then tojson
         else error("cannot write an array or an object as csv") end]
  | join(",");
def @tsv:
  [.[] | if isstring
         then gsub("\\\\"; "\\\\") | gsub("\t"; "\\t") | gsub("\n"; "\\n") | gsub("\r"; "\\r")
         elif . == null then "" elif isnumber or isboolean then tojson
         else error("cannot write an array or an object as tsv") end]
  | join("\t");

def todate(format): strftime(format);
def dateadd(unit; n): . + n;
def datesub(unit; n): . - n;
def date: todate;
