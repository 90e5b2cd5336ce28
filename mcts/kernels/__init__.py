"""The compiled part of the search: functions over flat arrays of records, none of which knows a class of ours."""
