-- Leasehold's own databases, beside those that Temporal's schema tool makes.
CREATE DATABASE leasehold;
CREATE DATABASE leasehold_logs;
