// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Tribute: a market for federated learning
/// @notice Sponsors fund projects, trainers are paid for what their updates contribute, and a round
/// is decided by the contract from the Gram matrix of its updates.
///
/// Safety rests on: the project's token moving what it says; the project's verifier accepting only
/// true Gram matrices; the project's rule being the one the trainers read before they joined. All
/// three are fixed when a project opens. It does not rest on the sponsor, the aggregator, any
/// trainer, or the owner of this contract: there is none.
///
/// Liveness rests on: somebody who can read the updates settling before the settle window ends. If
/// nobody does, the round expires, the aggregator's bond pays for it, and everybody can leave.
///
/// A project may name a root trainer, the sponsor or anybody whom it trusts to hold clean data. The root
/// commits and reveals like everybody, so that it cannot answer to what others sent. A settlement
/// neither pays nor slashes it; the rule says how its row of the matrix divides the pot, which goes to
/// the accepted trainers in any case. By staying away, or silent after a commit, it can make a round
/// wait for the end of a window, no more.
///
/// Money: the contract's balance of a token is at all times the sum of escrows, bonds, stakes and
/// credits of the projects in that token.
interface IMarketplace {
    // ------------------------------------------------------------------ types

    /// @notice Terms of a project. They never change after it opens.
    /// @dev Ordered for storage: what a settlement reads shares few slots.
    struct Params {
        /// ERC-20 that all amounts of the project are in
        address token;
        /// what the bond loses by a round that had updates enough and was not settled
        uint96 bondPenalty;
        /// who is bonded to settle, and alone may in the exclusive window
        address aggregator;
        /// the aggregator's collateral
        uint96 bond;
        /// `IScoringRule`
        address rule;
        /// pot of a round
        uint96 reward;
        /// `IGramVerifier`
        address verifier;
        /// paid per round to whoever settles it
        uint96 fee;
        /// receives slashed stake; neither sponsor nor aggregator, and it may not settle
        address slashSink;
        /// rounds to be paid
        uint32 rounds;
        /// active trainers at most, 1 to 128, less one where there is a root
        uint16 capacity;
        /// updates that a round needs to be scored, the root's included, and then 2 at least
        uint16 minUpdates;
        /// rounds in a row a trainer may miss before anybody may deactivate it
        uint16 patience;
        /// failed rounds in a row that halt the project
        uint8 maxFailures;
        /// a step is 2^-stepBits: the unit of an update's coordinates
        uint8 stepBits;
        /// a trainer's collateral
        uint96 stake;
        /// from the bond being posted to the first round, at most; a full project starts at once
        uint32 joinWindow;
        uint32 commitWindow;
        uint32 revealWindow;
        uint32 settleWindow;
        /// first part of the settle window, in which only the aggregator settles
        uint32 exclusiveWindow;
        /// from `leave` to the stake being free; at least commit + reveal + settle window, at most
        /// 1,460 days
        uint32 unbondingDelay;
        /// number of parameters of the model, d
        uint32 dimension;
        /// privacy budget of a trainer over the project in thousandths of ε; 0 where none is asked.
        /// With one, who commits says what it will have spent, by `commitSpending`
        uint32 epsilonMilli;
        /// largest L2 norm of an update, in steps
        uint64 clipNorm;
        /// the root trainer, which takes part without joining; 0 where there is none. It is neither
        /// the aggregator, who sees updates early, nor the sink
        address root;
        /// the rule's own parameters
        bytes32 ruleParams;
        /// 16 numbers of 16 bits, first one highest: basis points of `stake` lost by the k-th strike
        bytes32 slashBps;
        /// sha2-256 digest of the description's root block (CIDv1, dag-pb)
        bytes32 descriptionCid;
        /// unblinded commitment to the initial model: x ‖ y, 48 bytes big-endian each
        bytes32[3] initialCommitment;
    }

    enum Status {
        None,
        /// open, waiting for the aggregator's bond
        Bonding,
        Running,
        /// all rounds paid
        Finished,
        /// too many failed rounds in a row
        Halted,
        /// the sponsor has taken back what was left
        Closed
    }

    /// @notice Where a project stands. Times are unix seconds.
    struct State {
        Status status;
        /// current round, from 1; failed rounds count
        uint32 round;
        uint32 settledRounds;
        /// failed rounds in a row
        uint8 failures;
        uint40 opensAt;
        uint40 commitEnd;
        uint40 revealEnd;
        uint40 settleEnd;
        /// active trainers
        uint16 active;
        /// commits counted by `closeCommits`; 0 before
        uint16 commits;
        uint8 reveals;
        /// running hash of the round's reveals: bytes31(uint248(round)), then for each reveal
        /// bytes31(keccak256(hash ‖ trainer ‖ point))
        bytes31 revealHash;
        address sponsor;
        uint96 escrow;
        uint96 bond;
    }

    enum Membership {
        None,
        Active,
        Leaving,
        /// missed too many rounds or lost its stake; leaves like anybody else
        Inactive
    }

    /// @notice What an address has in a project, whatever its role.
    struct Account {
        uint96 stake;
        /// what `withdraw` pays
        uint128 credit;
        uint8 strikes;
        Membership membership;
        /// position in `trainers(project)`, meaningful for active trainers
        uint16 index;
        /// last round committed in
        uint32 lastCommit;
        /// whether the commit of round `lastCommit` was revealed
        bool revealed;
        /// when a leaving trainer's stake is free
        uint40 exitAt;
        /// privacy spent with the last commit, in thousandths of ε; 0 where no budget is asked
        uint32 spentMilli;
    }

    // ----------------------------------------------------------------- events

    event ProjectOpened(bytes32 indexed project, address indexed sponsor, Params params);
    event Bonded(bytes32 indexed project, uint96 amount, uint40 opensAt);
    /// @param encryptionKey X25519 public key, or zero in projects whose updates are open
    event Joined(
        bytes32 indexed project, address indexed trainer, uint16 index, bytes32 encryptionKey
    );
    /// @dev Here and in `Revealed` the trainer is not indexed: as data it costs a third of a topic.
    event Committed(bytes32 indexed project, address trainer, uint32 round);
    /// @notice With a commit in a project with a privacy budget.
    /// @param epsilonMilli what the trainer has spent over the project, in thousandths of ε
    event PrivacySpent(bytes32 indexed project, address trainer, uint32 round, uint32 epsilonMilli);
    event CommitsClosed(bytes32 indexed project, uint32 round, uint16 commits);
    event Revealed(
        bytes32 indexed project, address trainer, uint32 round, bytes32[3] point, bytes32 cid
    );
    /// @notice A round was settled and paid.
    /// @param records one word a trainer in the order of the reveals, from the lowest bit:
    /// share (96 bits), slashed (96), weight (32, of 2^16), strikes (8), exclusion reason (8),
    /// outlier (8), deactivated (8). The root's is 0 but for the reason, and for the outlier's bit where
    /// the rule set the root aside
    /// @param gram the matrix that decided it, as `settle` took it
    event Settled(
        bytes32 indexed project,
        uint32 indexed round,
        address indexed settler,
        bytes32 modelCid,
        bytes records,
        bytes gram
    );
    /// @notice A round closed without pay and a new one opened.
    /// @param bondLost shared by those who revealed; with exclusions the sink's
    /// @param exclusions one reason a reveal where the aggregator excluded too many, else empty
    event RoundFailed(bytes32 indexed project, uint32 round, uint96 bondLost, bytes exclusions);
    event Deactivated(bytes32 indexed project, address indexed trainer);
    event LeaveRequested(bytes32 indexed project, address indexed trainer, uint40 exitAt);
    event Left(bytes32 indexed project, address indexed trainer, uint96 stake);
    event ProjectEnded(bytes32 indexed project, Status status);
    event ProjectClosed(bytes32 indexed project, uint96 refund);
    event Withdrawn(bytes32 indexed project, address indexed account, uint128 amount);

    // ----------------------------------------------------------------- errors

    error UnknownProject(bytes32 project);
    error WrongStatus(Status status);
    /// @param field name of the parameter that cannot be
    error BadParam(string field);
    /// @notice The token delivered another amount than it was asked to.
    error TokenTookFee(uint256 asked, uint256 received);
    error WrongRound(uint32 given, uint32 current);
    error TooEarly(uint256 now_, uint256 from);
    error TooLate(uint256 now_, uint256 until);
    error NotAggregator(address sender);
    error NotSponsor(address sender);
    error NotTrainer(address account);
    error AlreadyJoined(address account);
    error ProjectFull(uint16 capacity);
    error AlreadyCommitted(address trainer, uint32 round);
    error BadSignature(uint256 index);
    /// @notice The project has a privacy budget: a commit says what is spent with it.
    error SpendingMissing(uint32 budgetMilli);
    error BudgetExceeded(uint32 spentMilli, uint32 budgetMilli);
    /// @notice What was spent once stays spent.
    error SpendingShrinks(uint32 spentMilli, uint32 before);
    error LengthMismatch(uint256 expected, uint256 given);
    /// @notice The window is still open, and not every active trainer and the root have committed, or
    /// fewer than `minUpdates` have.
    error CommitsMissing(uint256 missing, uint256 until);
    error NothingCommitted(address trainer, uint32 round);
    error AlreadyRevealed(address trainer, uint32 round);
    /// @notice Point and CID are not what the trainer committed to.
    error RevealMismatch(bytes28 committed, bytes28 revealed);
    /// @notice Trainers and points are not this round's reveals in their order.
    error RevealListMismatch(bytes31 expected, bytes31 given);
    /// @notice Only the named aggregator may leave updates out.
    error ExclusionNotAllowed(address sender);
    error DuplicatePoint(uint256 first, uint256 second);
    /// @notice The sink of slashed stake may not decide who is slashed.
    error SinkMayNotSettle(address sink);
    error GramRejected();
    /// @notice The scoring rule broke its contract.
    error RuleMisbehaved(address rule);
    error TooFewMissed(address trainer, uint32 missed, uint16 patience);
    error StillUnbonding(uint256 now_, uint256 until);
    error NothingToWithdraw(address account);

    // ---------------------------------------------------------------- sponsor

    /// @notice Opens a project and moves rounds × (reward + fee) into escrow.
    /// @return project keccak256(abi.encode(chain id, this contract, sponsor, nonce, params))
    function openProject(Params calldata params) external returns (bytes32 project);

    /// @notice Refunds the escrow as credit, once no round can claim it: the project is finished or
    /// halted, or nobody ever posted the bond.
    function closeProject(bytes32 project) external;

    // --------------------------------------------------------------- trainers

    /// @notice Deposits the stake and becomes active. The root takes part without it.
    function join(bytes32 project, bytes32 encryptionKey) external;

    /// @notice Commits to an update: `digest` is `commitDigest` of point and CID. In a project with a
    /// privacy budget `commitSpending` does.
    function commit(bytes32 project, uint32 round, bytes28 digest) external;

    /// @notice Commits for trainers who signed (EIP-712)
    /// `Commit(bytes32 project,uint32 round,address trainer,bytes28 digest)`, so that they need no
    /// gas. A commit that already stands as signed is passed over. Contracts sign by EIP-1271.
    function commitFor(
        bytes32 project,
        uint32 round,
        address[] calldata signers,
        bytes28[] calldata digests,
        bytes[] calldata signatures
    ) external;

    /// @notice Commits to an update in a project with a privacy budget. Nobody sees the noise of an
    /// update: what a trainer spends is its own word, given before all the others', for everybody to
    /// hold it to; the budget stops it from giving away more.
    /// @param epsilonMilli what the trainer will have spent over the project, this round included, in
    /// thousandths of ε: not less than with its last commit, and at most the budget
    /// @param signature empty where the trainer itself sends it, else its (EIP-712) of `CommitSpending(
    /// bytes32 project,uint32 round,address trainer,bytes28 digest,uint32 epsilonMilli)`
    function commitSpending(
        bytes32 project,
        uint32 round,
        address trainer,
        bytes28 digest,
        uint32 epsilonMilli,
        bytes calldata signature
    ) external;

    /// @notice Reveals what was committed to in the current round.
    function reveal(bytes32 project, bytes32[3] calldata point, bytes32 cid) external;

    /// @notice Stops taking part. The stake stays until the unbonding delay is over, or is free at
    /// once in a project that has ended.
    function leave(bytes32 project) external;

    /// @notice Turns the stake of a trainer who left into credit.
    function releaseStake(bytes32 project, address trainer) external;

    // -------------------------------------------------------------- aggregator

    /// @notice Deposits the bond; trainers can join from here on.
    function postBond(bytes32 project) external;

    /// @notice Checks a round's reveals and its Gram matrix, scores, pays, slashes, opens the next.
    /// @param revealers who revealed, in the order of the reveals
    /// @param points their commitments, 96 bytes each
    /// @param exclusions one byte a reveal, 0 for included, else a reason; empty where none is
    /// excluded. If fewer than `minUpdates` stay, the round fails, `gram` and `proof` are ignored, and
    /// the bond's penalty goes to the sink, unless there were fewer reveals from the start
    /// @param gram upper triangle of the included updates' Gram matrix, big-endian int64
    /// @param modelCid sha2-256 digest of the next model's root block
    function settle(
        bytes32 project,
        uint32 round,
        address[] calldata revealers,
        bytes calldata points,
        bytes calldata exclusions,
        bytes calldata gram,
        bytes calldata proof,
        bytes32 modelCid
    ) external;

    // ----------------------------------------------------------------- anybody

    /// @notice Ends the commit window, early if every active trainer, the root, and at least
    /// `minUpdates` have committed, and counts the commits, so that the round can be settled as soon as all of them are
    /// revealed.
    function closeCommits(bytes32 project, uint32 round) external;

    /// @notice Ends a round that cannot be settled any more: fewer reveals than `minUpdates` after
    /// the reveal window, or no settlement in the settle window. In the second case the bond's
    /// penalty is shared equally by those who revealed.
    /// @param revealers who revealed, in the order of the reveals
    /// @param points their commitments, 96 bytes each
    function expireRound(
        bytes32 project,
        uint32 round,
        address[] calldata revealers,
        bytes calldata points
    ) external;

    /// @notice Deactivates a trainer that missed more rounds in a row than the project's patience.
    function deactivate(bytes32 project, address trainer) external;

    /// @notice Pays the caller's credit in a project.
    function withdraw(bytes32 project) external returns (uint128 amount);

    // ------------------------------------------------------------------- views

    function paramsOf(bytes32 project) external view returns (Params memory);
    function stateOf(bytes32 project) external view returns (State memory);
    function accountOf(bytes32 project, address account) external view returns (Account memory);
    /// @notice Active trainers.
    function trainers(bytes32 project) external view returns (address[] memory);
    /// @notice bytes28(keccak256(abi.encode(project, round, trainer, point, cid))). The point's
    /// blinding hides everything, so no salt is needed.
    function commitDigest(
        bytes32 project,
        uint32 round,
        address trainer,
        bytes32[3] calldata point,
        bytes32 cid
    ) external pure returns (bytes28);
}
