"""What the worker promises, against a real broker, with real kills and a server that fails on cue.

Thirty properties, and the tests that hold each. Files without a folder are here; `unit:` and `it:`
are tests/unit and tests/integration. A test of the unit tier checks that every name exists.

 1. After kill -9 every message is called, and again only what was in flight or finished since the
    last commit; what a commit calls done is never called again.
    test_crashes.test_a_killed_worker_loses_nothing_and_repeats_little
 2. A slow head holds up nothing but the committed offset, which jumps when it ends.
    test_commits.test_the_commit_waits_for_the_head_and_then_jumps
 3. A committed offset never passes an unfinished message and never goes back.
    test_commits.test_commits_never_pass_what_is_unfinished_while_workers_come_and_go
    test_crashes.test_a_worker_that_stood_still_too_long_moves_nothing_back
 4. Key: messages of a key neither overlap nor overtake.
    test_order.test_messages_of_a_chain_neither_overlap_nor_overtake
 5. Nor while one of them waits for its retry; other keys go on meanwhile.
    test_order.test_while_a_message_waits_for_its_retry_the_other_keys_go_on
 6. Partition: one at a time in each, side by side with others.
    test_order.test_messages_of_a_chain_neither_overlap_nor_overtake
 7. None: one partition fills every slot.
    test_order.test_without_order_one_partition_fills_every_slot
    test_order.test_messages_without_a_key_have_no_order
 8. A worker joins while calls are in flight: order holds over both, nothing is called twice.
    it:test_worker_delivery.test_a_second_worker_joins_and_order_and_singularity_hold
    it:test_worker_handover.test_workers_come_and_go_under_load_and_no_call_is_repeated_or_waited_for
    it:test_worker_handover.test_what_may_not_be_handed_over_is_waited_for
 9. A call that outlives its owner's time is made again, and its late end changes nothing.
    test_crashes.test_a_worker_that_stood_still_too_long_moves_nothing_back
    it:test_worker_handover.test_messages_of_a_worker_that_dies_after_handing_over_run_after_its_lease
    it:test_worker_exactly_once.test_a_worker_that_was_away_writes_nothing_on_its_return
10. Many rebalances under load: no loss, no stall, lag 0 at the end.
    it:test_worker_delivery.test_workers_that_come_and_go_lose_and_repeat_nothing
    it:test_worker_handover.test_workers_come_and_go_under_load_and_no_call_is_repeated_or_waited_for
    it:test_worker_exactly_once.test_workers_come_and_go_under_load
11. SIGTERM with time enough: all in flight ends and is committed; a restart repeats nothing.
    it:test_worker_delivery.test_sigterm_drains_and_repeats_nothing
    it:test_worker_handover.test_a_sole_worker_that_ends_leaves_the_group_at_once_and_no_lag
12. SIGTERM with too little: out before SIGKILL; only what did not end is called again.
    it:test_worker_delivery.test_a_call_longer_than_the_drain_is_left_to_the_next_owner
13. Poison becomes one dead letter, byte for byte, in every mode; its partition goes on.
    test_what_is_written.test_poison_becomes_one_dead_letter_and_its_partition_goes_on
    it:test_worker_failures.test_poison_goes_to_the_dead_letters_byte_for_byte
14. While dead letters cannot be written, nothing of theirs is committed; then each is once.
    it:test_worker_failures.test_dead_letters_that_cannot_be_written_are_kept
15. A message that fails runs maxAttempts times, with waits that differ, and is a dead letter then.
    it:test_worker_failures.test_retries_then_a_dead_letter_with_its_story
    unit:test_worker_retry.test_waits_differ
16. Retry-After is kept, in seconds and as a date, and frees the slot.
    it:test_worker_flow_control.test_a_date_to_come_back_at_is_kept_and_frees_the_slot
    it:test_worker_failures.test_a_busy_server_is_given_the_time_it_asks_for
    test_metrics.test_waiting_and_refused_messages_show
17. A rate limit inside a 500 is a rate limit.
    unit:test_flow_classify.test_a_providers_limit_inside_a_500_is_a_throttle
18. An outage makes no dead letters, is probed and not stormed, keeps the membership, and heals.
    it:test_worker_flow_control.test_an_outage_costs_no_message_and_hardly_a_call
    unit:test_worker_engine.test_an_outage_sends_nothing_to_the_dead_letters
19. 401 and 404 make no dead letters, show, and heal without a restart.
    it:test_worker_failures.test_a_wrong_key_opens_the_circuit_and_its_repair_heals
20. A topic full of poison does not flood the dead letters.
    it:test_worker_flow_control.test_a_topic_of_poison_stops_and_says_so
    unit:test_worker_flood.test_everything_is_done_in_the_end_and_floods_are_slow
21. Results are written before their offsets are committed, for every kind of message, and
    outlast a Kafka that cannot be written.
    test_commits.test_commits_never_pass_what_is_unfinished_while_workers_come_and_go
    test_what_is_written.test_messages_without_key_value_or_headers_have_results_too
    it:test_worker_failures.test_while_the_output_topic_is_missing_results_wait_on_disk
    it:test_worker_spool.test_a_broker_that_stops_costs_no_result_and_no_order
    it:test_worker_exactly_once.test_a_killed_worker_leaves_no_result_twice
    it:test_worker_exactly_once.test_a_broker_that_dies_in_the_middle
22. A large backlog costs no memory, no second fetch, and starves no partition.
    test_backlog.test_a_backlog_costs_no_memory_and_no_second_fetch_and_starves_no_partition
23. A call of a minute with defaults moves nothing; the time limit is the one that was set.
    test_long_calls.test_a_call_of_a_minute_with_defaults_moves_nothing
    test_long_calls.test_the_time_limit_is_the_one_that_was_set
24. Throughput: `make bench-worker`, as ratios within one run.
25. Offsets without a message are passed over, aborted ones not called; the lag reaches 0.
    test_gaps.test_aborted_messages_are_not_called_and_the_lag_reaches_zero
    test_gaps.test_a_compacted_topic_with_gaps
    test_gaps.test_records_that_retention_deletes_are_passed_over
26. Strange commits and topics made anew: at most called again, never passed over.
    test_positions.test_strange_metadata_never_makes_a_message_count_as_done
    test_positions.test_a_commit_beyond_the_end_begins_at_the_beginning
    test_positions.test_a_topic_that_was_made_anew_while_nobody_looked
    test_positions.test_a_topic_that_is_made_anew_under_a_worker
    test_positions.test_a_topic_that_is_made_anew_while_its_worker_stands_still
27. Brokers that restart or crash, coordinators that move, fetches that stop bringing anything.
    test_brokers.test_coordinator_and_leaders_move_under_load
    test_brokers.test_fetches_that_bring_nothing_more_end_with_a_new_consumer
    it:test_worker_delivery.test_a_broker_that_restarts_is_no_reason_to_stop
28. A group without commits begins at the beginning, or where it is told to.
    test_positions.test_a_first_start_reads_what_is_there
    it:test_worker_delivery.test_start_from_latest_skips_what_is_there_once
29. Credentials come out nowhere.
    test_secrets.test_no_credential_comes_out
    test_secrets.test_errors_of_login_and_start_quote_no_credential
    test_secrets.test_the_kafka_user_stays_out_of_the_log
    test_secrets.test_a_broken_answer_that_quotes_the_key
    test_secrets.test_an_unexpected_error_that_quotes_the_key
    test_secrets.test_a_url_with_user_and_password_works_and_shows_neither
30. Metrics agree with what happened.
    test_metrics.test_metrics_agree_with_what_happened
    test_metrics.test_waiting_and_refused_messages_show
    test_metrics.test_rebalances_and_commits_are_counted
"""
